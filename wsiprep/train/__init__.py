"""Training: one visible loop for each kind of model, over what the stages offer."""
