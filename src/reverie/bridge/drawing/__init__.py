"""Files that :func:`reverie.bridge.write` copies beside a network, so that diffusers draws with it. They need diffusers only."""
