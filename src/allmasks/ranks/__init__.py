"""Work over the processes of torch.distributed: what ranks say to each other, and must hold alike."""
