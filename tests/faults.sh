#!/usr/bin/env bash
# Runs a command with PgBouncer, nginx and fail2ban on PATH:  tests/faults.sh COMMAND [ARGUMENT…]
# Installs Debian's packages where they are missing, without starting the services that they bring.
set -eu

say() { printf 'faults: %s\n' "$*" >&2; }

install_packages() {
  local root=
  [ "$(id -u)" = 0 ] || root='sudo -n'
  command -v apt-get >/dev/null && $root true 2>/dev/null || return 0
  say 'installing the packages pgbouncer, nginx-light, fail2ban and openssl'
  # Debian starts what it installs, unless this file says no; one that is there already is left alone.
  $root sh -ec '
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
      trap "rm -f $policy" EXIT
      printf "#!/bin/sh\nexit 101\n" >$policy && chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q || echo "going on with the package lists that are there"
    apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 pgbouncer nginx-light fail2ban openssl' </dev/null >&2 || true
}

PATH=$PATH:/usr/sbin:/sbin
export PATH
missing() { for program in pgbouncer nginx fail2ban-regex openssl; do command -v $program >/dev/null || return 0; done; return 1; }
if missing; then install_packages; fi
if missing; then
  say 'a program is missing; Debian: apt-get install pgbouncer nginx-light fail2ban openssl'
  exit 1
fi
exec "$@"
