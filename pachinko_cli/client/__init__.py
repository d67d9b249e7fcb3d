"""What `pachinko connect` is made of: a WebSocket client that knows the application's messages.

commands/connect
    ├─ address        what was typed as PATH, --header and so on, as a request that can be sent
    ├─ vocabulary     the message types of the route: their fields, their checks
    ├─ lines          what one may type: `say text=hi`, JSON, /commands
    └─ conversation   one connection, from the handshake to the close
           ├─ input       where lines come from: a pipe, or a terminal with its prompt
           │    └─ editor     the line being typed
           ├─ display     frames and events, for people and for machines
           └─ refusals    what went wrong, in words
"""
