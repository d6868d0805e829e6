#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# A hook for zcluster: an e-mail when the role changes, when something goes wrong, when it is over.
# Put it into /etc/zcluster/hooks.d/ on both nodes (root's own, mode 0755). It needs sendmail(8).
set -eu
TO=${ZCLUSTER_MAIL_TO:-root}

case $ZCLUSTER_EVENT in
    transition) subject="$ZCLUSTER_NODE: $ZCLUSTER_FROM -> $ZCLUSTER_TO" ;;
    raise) subject="PROBLEM on $ZCLUSTER_NODE: $ZCLUSTER_CONDITION" ;;
    clear) subject="over on $ZCLUSTER_NODE: $ZCLUSTER_CONDITION" ;;
    *) exit 0 ;;
esac

/usr/sbin/sendmail -t <<MAIL
To: $TO
Subject: [$ZCLUSTER_CLUSTER] $subject

${ZCLUSTER_MESSAGE:-$ZCLUSTER_CAUSE}

Node $ZCLUSTER_NODE of cluster $ZCLUSTER_CLUSTER is $ZCLUSTER_ROLE, status $ZCLUSTER_STATUS.
$ZCLUSTER_TIME
MAIL
