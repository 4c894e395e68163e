"""Programs that time fusedgrad and measure its errors, side by side with its contenders."""
