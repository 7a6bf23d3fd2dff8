"""What every part may use and which uses none of them: light, standard library only."""
