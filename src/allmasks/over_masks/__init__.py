"""The one core of what is averaged over masks: one look at a model and its data, masks, passes, means with errors."""
