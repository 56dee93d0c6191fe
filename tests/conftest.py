"""Set before anything imports torch or kvasir: one thread each, no network, every audit on."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("KVASIR_CHECK_MESSAGES", "1")
os.environ.setdefault("KVASIR_CHECK_INTEGRITY", "1")
