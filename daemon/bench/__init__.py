"""How fast it is, on this machine and so that anyone can measure it again: `upframe bench`."""
