/*
 * Whose connection it is that the kubelet opens: known by its socket, before the SYN leaves, and never by an address, which
 * a node shares with all that runs on it, or by what is sent, which anybody can send.
 *
 *   kubelet's cgroup  kubelet_calls   TCP_CONNECT_CB: note both ends; STATE_CB: it is closed
 *
 * Both ends are what the pod sees, as long as nobody translates addresses in between. If somebody does, such a connection
 * is anybody's.
 */
static __always_inline int call_key_of(struct bpf_sock_ops *ops, struct call_key *key)
{
    if (ops->family == 2) { /* AF_INET */
        map_v4(key->source, ops->local_ip4);
        map_v4(key->target, ops->remote_ip4);
    } else if (ops->family == 10) { /* AF_INET6, also of a mapped address */
        u32 word;

/* Volatile: the verifier takes four loads of four bytes, and the compiler would make two of them. */
#define COPY(to, from, i) word = *(volatile u32 *)&ops->from[i]; __builtin_memcpy(key->to + 4 * i, &word, 4)
        COPY(source, local_ip6, 0);
        COPY(source, local_ip6, 1);
        COPY(source, local_ip6, 2);
        COPY(source, local_ip6, 3);
        COPY(target, remote_ip6, 0);
        COPY(target, remote_ip6, 1);
        COPY(target, remote_ip6, 2);
        COPY(target, remote_ip6, 3);
#undef COPY
    } else {
        return 0;
    }
    key->sport = ops->local_port;
    key->dport = bpf_ntohl(ops->remote_port);
    return 1;
}
