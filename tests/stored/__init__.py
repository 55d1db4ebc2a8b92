"""What older trees have left, and the command that stores it. `README.md` tells the rest."""
