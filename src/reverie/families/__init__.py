"""Other families of generative models, on the same data, with the same verbs and measures: each a model, its task and its settings."""
