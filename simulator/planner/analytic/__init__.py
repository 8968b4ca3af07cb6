"""What is known of a deployment without simulating it: bounds and estimates."""
