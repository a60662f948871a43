"""What a user's functions captured: stand-ins during a trace, places that calls read again."""
