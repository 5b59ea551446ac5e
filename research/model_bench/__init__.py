"""One inference, measured: operations, bytes and time by stage."""
