"""Opens a CUDA card while torch is still being imported: the driver takes a third of a second, most of it waiting."""

import ctypes
import sys
import threading
import time

PATIENCE_S = 60.0


def open_beside_imports() -> threading.Thread:
    """Begins to open the card that CUDA calls device 0, on a thread; torch finds it open when it gets there.

    What goes wrong is not said here: torch will meet it again and say it better.
    """
    thread = threading.Thread(target=_open, name="kvasir-open-card", daemon=True)
    thread.start()
    return thread


def _open() -> None:
    # Not before torch has loaded its libraries: what runs while a library is loaded might ask the driver something,
    # and the driver loads libraries itself. Two threads would then wait for each other.
    deadline = time.monotonic() + PATIENCE_S
    while "torch.nn" not in sys.modules:
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    except (OSError, AttributeError):
        return
