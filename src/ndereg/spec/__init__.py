"""What is solved: frozen, array-free records of a differential-equation solve."""
