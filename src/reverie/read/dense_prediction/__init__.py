"""Dense prediction: a class or a partner for every place of a picture."""
