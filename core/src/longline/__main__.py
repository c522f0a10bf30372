"""`python -m longline` is the `longline` command; torchrun starts ranks this way."""

from longline.cli import main

main()
