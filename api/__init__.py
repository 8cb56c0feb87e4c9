"""What clients touch: routes, schemas, errors, limits, the page. Answers are made here and nowhere else."""
