"""What :func:`reverie.bridge.write` puts beside a network so that diffusers draws with it. These files are copied, and need diffusers only."""
