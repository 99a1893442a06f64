"""Several seeds, baselines at equal cost, one look at the test set: is the winner real?"""
