#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Starts zclustermanager with the node's own Python, apart from anything else installed for it.
# It is started often (each request of the peer): what is compiled is kept, and gone with a reboot.
# Whoever wakes the daemon while it starts must not end it: it looks at everything first anyway.
[ "$1" != daemon ] || trap '' USR1
exec /usr/bin/python3 -I -S -X pycache_prefix=/run/zcluster/pycache -c 'import sys; sys.path.insert(0, "/usr/lib/zcluster"); from zclustermanager.__main__ import main; sys.exit(main())' "$@"
