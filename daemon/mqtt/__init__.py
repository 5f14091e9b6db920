"""MQTT: requests in, the state of everything out, and a broker that may be away at any time."""
