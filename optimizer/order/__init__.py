"""In what order a lane's prompts are fed. Pure: prompts and expected lengths in, a permutation of their places out."""
