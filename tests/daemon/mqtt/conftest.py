"""The broker for the tests of this folder."""

from mqtt_broker import broker

__all__ = ["broker"]
