"""What an experiment has shown: paired tests, and claims in words where the tests allow them."""
