"""This package reads released weights of others as networks of netpress."""
