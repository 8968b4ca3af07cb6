"""How simulations get done: tasks, who does them, and where what came of them is kept."""
