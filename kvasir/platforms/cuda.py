"""A CUDA card (the process's current one) as a platform."""


class CudaPlatform:
    device_type = "cuda"

    @property
    def name(self) -> str:
        import torch

        return torch.cuda.get_device_name()

    @property
    def capability(self) -> tuple[int, int]:
        import torch

        return torch.cuda.get_device_capability()

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes as the driver counts them, other processes' use included."""
        import torch

        return torch.cuda.mem_get_info()

    def default_dtype(self, checkpoint_dtype: str) -> str:
        """16 bits always: float32 checkpoints are rounded, and bfloat16 needs Ampere or later."""
        if checkpoint_dtype == "float16":
            return "float16"
        return "bfloat16" if self.capability >= (8, 0) else "float16"

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def seed(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)  # seeds the card's generator too
