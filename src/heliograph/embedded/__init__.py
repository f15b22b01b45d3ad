"""How the embedded model is made: its world, code, words, starting point, decoder and scores (`runs/embedded.sh`)."""
