"""llama.cpp's own HTTP server, as a process: `python llama_server.py MODEL.gguf PORT`. It runs until it is killed."""

import signal
import sys

import xllamacpp

SLOTS = 4
CONTEXT_TOKENS = 512  # of each slot

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.port = int(sys.argv[2])
params.n_parallel = SLOTS
params.n_ctx = SLOTS * CONTEXT_TOKENS
params.cpuparams.n_threads = 1  # its threads spin; on a busy machine a second one makes it ten times slower
server = xllamacpp.Server(params)
signal.pause()
