#!/bin/sh
# A dns_hook for a name server that takes dynamic updates (RFC 2136): BIND, Knot, PowerDNS, Windows.
#
#     [tls.acme]
#     dns_hook = "/etc/snowbank/nsupdate.sh"
#
# Needs nsupdate (Debian: bind9-dnsutils). The server is the one that the zone's SOA record names, unless SERVER is set; the key
# is read from KEY_FILE, which tsig-keygen writes, and which only the user that snowbank runs as should be able to read.
set -eu
KEY_FILE=${KEY_FILE:-/etc/snowbank/tsig.key}
SERVER=${SERVER:-}
TTL=60

verb=$1 name=$2 value=$3
case $verb in
    add) change="update add $name. $TTL TXT \"$value\"" ;;
    remove) change="update delete $name. TXT \"$value\"" ;;
    *) echo "usage: $0 add|remove NAME VALUE" >&2; exit 64 ;;
esac
{
    [ -z "$SERVER" ] || echo "server $SERVER"
    echo "$change"
    echo send
} | nsupdate -k "$KEY_FILE" -t 30
