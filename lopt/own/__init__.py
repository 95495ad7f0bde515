"""What other people bring: classes of their own by name, and functions, arrays and models as tasks."""
