"""What every request meets before an interface sees it: TLS, limits, bodies."""
