"""The broker for the tests of this folder."""

from support.servers.mqtt import broker

__all__ = ["broker"]
