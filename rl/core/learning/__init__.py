"""What learns: schedules, learners."""
