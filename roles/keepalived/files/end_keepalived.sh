#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Ends keepalived for good. "keep": without releasing its addresses, so that the node goes on
# serving; "release": the usual way. Says "ended" when there was something to end.
set -eu
systemctl is-active --quiet keepalived.service || systemctl is-enabled --quiet keepalived.service 2>/dev/null || exit 0
if [ "$1" = keep ]; then
    # An ordinary stop would remove the virtual IPs; and Restart=always must not bring it back.
    mkdir -p /run/systemd/system/keepalived.service.d
    printf '[Service]\nRestart=no\nExecStop=\n' >/run/systemd/system/keepalived.service.d/zzz-zcluster-unset.conf
    systemctl daemon-reload
    systemctl kill --kill-whom=all --signal=SIGKILL keepalived.service || true
    # Only when its stop is over, too: a unit that is still deactivating would be started again.
    for _ in $(seq 100); do
        case $(systemctl show --property=ActiveState --value keepalived.service) in
            inactive | failed) break ;;
        esac
        sleep 0.2
    done
    rm -f /run/systemd/system/keepalived.service.d/zzz-zcluster-unset.conf
    systemctl daemon-reload
    systemctl reset-failed keepalived.service 2>/dev/null || true
fi
systemctl disable --now --quiet keepalived.service
echo ended
