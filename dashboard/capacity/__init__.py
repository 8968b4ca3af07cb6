"""Parts of the capacity page: ``asking`` makes the plan, ``searching`` has it searched, ``result``,
``trade_offs`` and ``files`` show what was found."""
