"""What encoders and containers take and hold, and the video's way through them in time."""
