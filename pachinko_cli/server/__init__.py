"""What `pachinko serve` runs: one listening socket, and uvicorn around the project's app.

commands/serve ─▶ listener.listen       binds the port once, so that no reload can lose it
                      │ socket
             --reload ├─▶ reloading.supervise ─▶ a child process: running.run   again at each save
                      │       └─ keyboard   the terminal's keys, unless a debugger wants them
            --workers ├─▶ processes.supervise ─▶ several of them, each again when it dies
          --no-reload └─▶ running.run            in this process
                              │
                              ├─ loading    imports the app, or tells the user's own frames
                              ├─ overview   what the app answers: routes, message types, workers
                              ├─ log        request lines for people, without the secrets in them
                              └─ trace      every frame, for those who ask to see them

`plan` says what was asked for; `child` is what a supervisor and its processes have in common.
"""
