"""What the emulator bears, and how far its clients are from the prediction."""
