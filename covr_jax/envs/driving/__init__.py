"""Driving, whatever the world: scenarios, rewards, endings and accounting that ``toy/...`` and ``carla/...`` share."""
