"""Running jobs: worker processes that keep their models, and who starts and watches them."""
