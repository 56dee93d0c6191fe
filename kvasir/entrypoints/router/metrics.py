"""One Prometheus page of several models: the same metrics, told apart by their label `model_name`."""

from collections.abc import Iterable


def merge(pages: Iterable[bytes]) -> bytes:
    """Each family once, with the samples of all pages; the format allows no family to come twice."""
    families: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    for page in pages:
        head: list[bytes] = []
        samples: list[bytes] = []
        for line in page.splitlines(keepends=True):
            if line.startswith(b"# HELP "):
                head, samples = families.setdefault(line.split(b" ", 3)[2], ([], []))
                is_new = not head
            if not line.startswith(b"#"):
                samples.append(line)
            elif is_new:
                head.append(line)
    return b"".join(line for head, samples in families.values() for line in (*head, *samples))
