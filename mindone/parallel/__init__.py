"""The ranks of a run: who works with whom, what they tell each other, how one network is spread over them."""
