"""What fusedgrad changes, shown: exact derivatives, two trainings and a picture."""
