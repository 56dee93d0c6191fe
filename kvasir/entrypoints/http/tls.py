"""TLS of the listening socket, with certificates that may be renewed while the server runs."""

import os
import ssl
from typing import TYPE_CHECKING

from kvasir.errors import ConfigError
from kvasir.logger import get_logger

if TYPE_CHECKING:
    from kvasir.config import ServerArgs

logger = get_logger(__name__)

CHECK_EVERY_S = 30.0


class Tls:
    """One context for all connections; new handshakes use what `reload` has read last.

    Raises:
        ConfigError: a file is missing, or the pair does not fit.
    """

    def __init__(self, certfile: str, keyfile: str | None, ca_certs: str | None, cert_reqs: int):
        self._files = (certfile, keyfile)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.verify_mode = ssl.VerifyMode(cert_reqs)
        try:
            _load(self.context, certfile, keyfile)
            if ca_certs:
                self.context.load_verify_locations(ca_certs)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"TLS cannot be set up with --ssl-certfile {certfile}, --ssl-keyfile {keyfile}: {error}."
            ) from None
        self._seen = self._times()

    def reload(self) -> bool:
        """Reads the pair again; if it is broken that is logged, and the old one stays."""
        try:
            # Tried on another context first: a pair that does not fit would leave this one half changed.
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *self._files)
            _load(self.context, *self._files)
        except (OSError, ssl.SSLError) as error:
            logger.error("the TLS certificate is not reloaded: %s", error)
            return False
        self._seen = self._times()
        logger.info("TLS certificate reloaded")
        return True

    def reload_if_changed(self) -> bool:
        times = self._times()
        if times == self._seen:
            return False
        self._seen = times  # a broken pair is complained about once
        return self.reload()

    def _times(self) -> tuple[float, ...]:
        try:
            return tuple(os.stat(path).st_mtime for path in self._files if path)
        except OSError:  # between the old file and the new one
            return self._seen


def make_tls(args: "ServerArgs") -> Tls | None:
    """None without --ssl-certfile."""
    if not args.ssl_certfile:
        if args.ssl_keyfile or args.ssl_ca_certs:
            raise ConfigError("--ssl-keyfile and --ssl-ca-certs need --ssl-certfile.")
        return None
    if args.ssl_cert_reqs and not args.ssl_ca_certs:
        raise ConfigError("--ssl-cert-reqs asks for clients' certificates: name those who sign them (--ssl-ca-certs).")
    return Tls(args.ssl_certfile, args.ssl_keyfile, args.ssl_ca_certs, args.ssl_cert_reqs)


def _load(context: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    def no_password() -> str:
        raise ssl.SSLError("the key has a password; give one without, readable by this process only")

    context.load_cert_chain(certfile, keyfile, password=no_password)
