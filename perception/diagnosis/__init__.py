"""What this machine has, what is wrong with it, and how to mend it: the parts of perception.doctor."""
