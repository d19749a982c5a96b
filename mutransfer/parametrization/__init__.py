"""What width does to each parameter: roles from shapes, the rules, the plan made from both, its application."""
