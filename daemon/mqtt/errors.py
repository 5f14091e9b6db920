"""What can go wrong between us and the broker, and who acts on it.

ConnectionLost              no connection, or none any more: try again after a while
  TakenOver                 another client has our name: try again late, or the two fight for ever
LoginRefused                wrong credentials or no authority: say it once, try again late
SubscriptionRefused         no authority to read requests: as LoginRefused
"""

from __future__ import annotations


class ConnectionLost(Exception):
    """There is no connection, or none any more: try again later."""


class TakenOver(ConnectionLost):
    """Another client has connected under our name."""


class LoginRefused(Exception):
    """The broker knows us and does not want us: trying soon again is of no use."""


class SubscriptionRefused(Exception):
    """The broker does not let us read where requests arrive."""
