/*
 * Hold and replay, and activity: the programs at tc in a pod's network namespace.
 *
 *   eth0, lo ingress  eth_in, lo_in   hold (redirect to the container's TAP), answer a keepalive,
 *                                     or let pass and note activity
 *   eth0 egress       eth_out         note activity
 *   TAP ingress       tap_in          a frame the daemon writes back: to the interface it came from
 *   TAP egress        tap_out         only redirected frames; the kernel's own would look like traffic
 *
 * and one outside of them, in calls.h.
 *
 * The pod is known by the filter's classid, which cls_bpf hands over as skb->tc_classid; on a TAP it is
 * the hold. Verdicts are TC_ACT_UNSPEC, "go on with the next filter": other people's filters still run.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>
#include "maps.h"
#include "packet.h"
#include "answer.h"
#include "pings.h"
#include "calls.h"

static __always_inline u32 tuple_of(struct packet *p, struct bpf_sock_tuple *tuple)
{
    if (p->v6) {
        __builtin_memcpy(tuple->ipv6.saddr, p->source, 16);
        __builtin_memcpy(tuple->ipv6.daddr, p->target, 16);
        tuple->ipv6.sport = bpf_htons(p->sport);
        tuple->ipv6.dport = bpf_htons(p->dport);
        return sizeof(tuple->ipv6);
    }
    __builtin_memcpy(&tuple->ipv4.saddr, p->source + 12, 4);
    __builtin_memcpy(&tuple->ipv4.daddr, p->target + 12, 4);
    tuple->ipv4.sport = bpf_htons(p->sport);
    tuple->ipv4.dport = bpf_htons(p->dport);
    return sizeof(tuple->ipv4);
}

/* The socket of a segment, time-wait and half-open ones too, or NULL; to be released. */
static __always_inline struct bpf_sock *tcp_socket(struct __sk_buff *skb, struct packet *p)
{
    struct bpf_sock_tuple tuple = {};
    u32 size = tuple_of(p, &tuple);

    return bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
}

static __always_inline int has_udp_socket(struct __sk_buff *skb, struct packet *p)
{
    struct bpf_sock_tuple tuple = {};
    u32 size = tuple_of(p, &tuple);
    struct bpf_sock *sk = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);

    if (sk)
        bpf_sk_release(sk);
    return !!sk;
}

/* A connection that somebody (a sibling, TIME_WAIT, a half-open accept) still answers. */
static __always_inline int is_live(struct __sk_buff *skb, struct packet *p)
{
    struct bpf_sock *sk = tcp_socket(skb, p);
    int state;

    if (!sk)
        return 0;
    state = sk->state;
    bpf_sk_release(sk);
    return state != BPF_TCP_LISTEN;
}

/* An old-style keepalive carries one byte that was received long ago. */
static __always_inline int is_keepalive(struct __sk_buff *skb, struct packet *p)
{
    struct bpf_tcp_sock *tp;
    struct bpf_sock *sk;
    int old = 0;

    sk = tcp_socket(skb, p);
    if (!sk)
        return 0;
    tp = bpf_tcp_sock(sk);
    if (tp)
        old = p->seq == tp->rcv_nxt - 1;
    bpf_sk_release(sk);
    return old;
}

static __always_inline int is_syn(struct packet *p)
{
    return p->proto == IPPROTO_TCP && (p->flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN;
}

/* The kubelet's connection that a segment for the pod belongs to, or NULL. */
static __always_inline struct call *call_in(struct pod *pod, struct packet *p)
{
    struct call_key key = {.sport = p->sport, .dport = p->dport};
    struct call *found;

    if (!pod || !pod->calls || p->proto != IPPROTO_TCP || p->kind != WHOLE)
        return NULL;
    __builtin_memcpy(key.source, p->source, 16);
    __builtin_memcpy(key.target, p->target, 16);
    found = calls.lookup(&key);
    if (!found || !found->closed || !is_syn(p))
        return found;
    /* Somebody has been given the port that the kubelet had. */
    calls.delete(&key);
    return NULL;
}

/* The same of a segment that the pod sends. */
static __always_inline struct call *call_out(struct pod *pod, struct packet *p)
{
    struct call_key key = {.sport = p->dport, .dport = p->sport};

    if (!pod || !pod->calls || p->proto != IPPROTO_TCP || p->kind != WHOLE)
        return NULL;
    __builtin_memcpy(key.source, p->target, 16);
    __builtin_memcpy(key.target, p->source, 16);
    return calls.lookup(&key);
}

/* The clock of a port; *asked tells whether the daemon has asked for it. */
static __always_inline struct activity *activity_of(struct port_key *key, u32 first, int *asked)
{
    struct activity fresh = {.first = first}, *found;

    found = activity.lookup(key);
    *asked = !!found;
    if (found) {
        if (!found->first)
            found->first = first;
        return found;
    }
    found = passing.lookup(key);
    if (found)
        return found;
    passing.update(key, &fresh);
    return passing.lookup(key);
}

/* Only bytes for the application count: no pure ACK, FIN, RST, SYN. A datagram always does. */
static __always_inline int has_payload(struct packet *p)
{
    if (p->kind == LATER)
        return 0;
    return p->proto == IPPROTO_UDP || (p->payload && !(p->flags & (FLAG_SYN | FLAG_RST)));
}

/* The pod wants to know nothing of this peer. Asleep the daemon looks, frame by frame. */
static __always_inline int is_ignored(u32 slot, struct pod *pod, struct packet *p, u8 *peer)
{
    struct network_key net = {.bits = 32 + 128, .slot = slot};
    u32 *version;

    if (!pod || !pod->ignores)
        return 0;
    __builtin_memcpy(net.address, peer, 16);
    version = networks.lookup(&net);
    /* ::/0 has mapped IPv4 in it, and nobody who writes it means that. */
    return version && *version == (p->v6 ? 6 : 4);
}

static __always_inline struct conn_key connection_of(u32 slot, struct packet *p)
{
    struct conn_key key = {.lport = p->dport, .rport = p->sport, .slot = slot, .proto = p->proto};

    __builtin_memcpy(key.local, p->target, 16);
    __builtin_memcpy(key.remote, p->source, 16);
    return key;
}

/* The connection of a segment that the pod sends. */
static __always_inline struct conn_key own_connection_of(u32 slot, struct packet *p)
{
    struct conn_key key = {.lport = p->sport, .rport = p->dport, .slot = slot, .proto = p->proto};

    __builtin_memcpy(key.local, p->source, 16);
    __builtin_memcpy(key.remote, p->target, 16);
    return key;
}

/* The clocks of a connection, where there are pings; where there are none the kernel's own are enough. */
static __always_inline struct talk *talk_of(u32 slot, struct conn_key *key)
{
    struct talk fresh = {}, *found;
    u64 *seen = pinged.lookup(&slot);

    if (!seen || !*seen)
        return NULL;
    found = talks.lookup(key);
    if (found)
        return found;
    talks.update(key, &fresh);
    return talks.lookup(key);
}

/*
 * Begin the clocks of a connection at its first ping, which moves the kernel's own. What was before is taken from its
 * port: of a connection that the pod has opened the very same, of a client's one that is late at the worst.
 */
static __always_inline void begin_talk(struct pod *pod, struct port_key *port, struct conn_key *key)
{
    u64 born = pod ? pod->born : 0;
    struct talk fresh = {.last_in = born, .last_out = born}, *found;
    struct activity *a;

    found = talks.lookup(key);
    if (found && (found->last_in >= born || found->last_out >= born))
        return;
    a = activity.lookup(port);
    if (!a)
        a = passing.lookup(port);
    if (a && a->last_in > born)
        fresh.last_in = a->last_in;
    if (a && a->last_out > born)
        fresh.last_out = a->last_out;
    talks.update(key, &fresh);
}

/* Whether this is a ping; then the pod is known to have seen one, and `when`. */
static __always_inline int note_ping(struct __sk_buff *skb, struct pod *pod, struct packet *p, struct port_key *port,
                                     struct conn_key *conn, u64 when)
{
    u32 slot = conn->slot;
    u64 *seen;

    if (!is_ping(skb, p))
        return 0;
    seen = pinged.lookup(&slot);
    if (seen && *seen < when)
        *seen = when;
    begin_talk(pod, port, conn);
    return 1;
}

static __always_inline void
note_in(struct __sk_buff *skb, u32 slot, struct pod *pod, struct packet *p, struct call *call)
{
    struct port_key key = {.slot = slot, .port = p->dport, .proto = p->proto};
    struct conn_key conn = connection_of(slot, p);
    struct activity *a;
    struct talk *t;
    int asked;
    u64 now;

    if (!has_payload(p) || call || is_ignored(slot, pod, p, p->source))
        return;
    if (p->proto == IPPROTO_TCP && p->payload == 1 && is_keepalive(skb, p))
        return;
    now = bpf_ktime_get_ns();
    if (note_ping(skb, pod, p, &key, &conn, now))
        return;
    a = activity_of(&key, CAME, &asked);
    if (a)
        a->last_in = now;
    t = p->proto == IPPROTO_TCP ? talk_of(slot, &conn) : NULL;
    if (t)
        t->last_in = now;
}

static __always_inline void note_out(struct __sk_buff *skb, u32 slot, struct pod *pod, struct packet *p)
{
    struct port_key key = {.slot = slot, .port = p->sport, .proto = p->proto};
    struct conn_key conn = own_connection_of(slot, p);
    struct activity *a;
    struct talk *t;
    int asked;
    u64 now;

    if (!has_payload(p) || call_out(pod, p) || is_ignored(slot, pod, p, p->target))
        return;
    if (note_ping(skb, pod, p, &key, &conn, 1))
        return;
    now = bpf_ktime_get_ns();
    t = p->proto == IPPROTO_TCP ? talk_of(slot, &conn) : NULL;
    if (t)
        t->last_out = now;
    a = activity_of(&key, WENT, &asked);
    if (a)
        a->last_out = now;
    if (asked)
        return;
    /* Whatever comes to such a port unasked, a broadcast for instance, is not of the application's doing. */
    key.port = 0;
    a = activity.lookup(&key);
    if (a)
        a->last_out = now;
}

/* A segment that the kernel cannot deal with alone: it brings the application something. */
static __always_inline int wants_reader(struct __sk_buff *skb, struct packet *p)
{
    return has_payload(p) && !(p->payload == 1 && is_keepalive(skb, p));
}

/* Return the hold that a frame with ports belongs to, 0 for none. */
static __always_inline u32 match(struct __sk_buff *skb, u32 slot, struct pod *pod, struct packet *p)
{
    struct port_key port = {.slot = slot, .port = p->dport, .proto = p->proto};
    struct conn_key conn = connection_of(slot, p);
    struct hold *hold;
    u32 *found, id;

    found = conns.lookup(&conn);
    if (found) {
        id = *found; /* 0: a sibling's */
        hold = holds.lookup(&id);
        return hold && (hold->mode & MODE_SCOPE) == MODE_LIVE && !wants_reader(skb, p) ? 0 : id;
    }
    found = ports.lookup(&port);
    if (!found)
        return pod->everything;
    id = *found;
    hold = holds.lookup(&id);
    if (!id || !hold)
        return 0;
    switch (hold->mode & MODE_SCOPE) {
    case MODE_SYNS:
        return is_syn(p) ? id : 0;
    case MODE_EVERYTHING:
        return id;
    case MODE_SET:
    case MODE_LIVE:
        return p->proto == IPPROTO_UDP || is_syn(p) || !is_live(skb, p) ? id : 0;
    }
    return 0;
}

/* Fragments follow their first one; without it any hold of the pod takes them, nobody resets anything. */
static __always_inline u32 holder(struct __sk_buff *skb, u32 slot, struct pod *pod, struct packet *p)
{
    struct frag_key key = {.id = p->id, .slot = slot};
    u32 *found, id;

    if (p->kind == WHOLE)
        return match(skb, slot, pod, p);
    __builtin_memcpy(key.source, p->source, 16);
    __builtin_memcpy(key.target, p->target, 16);
    key.proto = p->v6 ? 0 : p->proto;
    if (p->kind == LATER) {
        found = frags.lookup(&key);
        if (found)
            return *found;
        return pod->everything ? pod->everything : pod->fallback;
    }
    id = match(skb, slot, pod, p);
    frags.update(&key, &id);
    return id;
}

/* Hand the frame to the hold's TAP; TC_ACT_UNSPEC when the hold lets it pass after all. */
static __always_inline int divert(struct __sk_buff *skb, u32 id)
{
    struct hold *hold = holds.lookup(&id);
    struct counts *count = counts.lookup(&id);

    /* An entry that was left behind must not hand one pod's frames into another's queue. */
    if (!hold || !count || !(hold->mode & MODE_SCOPE) || hold->slot != skb->tc_classid)
        return TC_ACT_UNSPEC;
    if (hold->mode & MODE_DRAIN && *(volatile u64 *)&count->redirected == hold->confirmed)
        return TC_ACT_UNSPEC;
    /* The TAP takes no large segments: the kernel cuts them into so many frames on the way. */
    __sync_fetch_and_add(&count->redirected, skb->gso_segs > 1 ? skb->gso_segs : 1);
    skb->mark = MARK_HELD | id;
    /* The daemon is gone, so is the device: the frame is dropped and comes again. */
    return bpf_redirect(hold->tap, 0);
}

/*
 * For a hold that sleeps: answer what a kernel alone would, so that nobody is woken by a keepalive and nobody
 * gives up for want of an answer; and take note of what is an answer itself. A socket that is there, because of a
 * dump or restore in progress, knows better.
 */
static __always_inline int answer(struct __sk_buff *skb, u32 slot, u32 id, struct packet *p)
{
    struct conn_key key = connection_of(slot, p);
    struct hold *hold = holds.lookup(&id);
    struct counts *count = counts.lookup(&id);
    struct stream *s;
    u64 now;

    if (p->proto != IPPROTO_TCP || p->kind != WHOLE || !hold || !count || hold->mode != MODE_SET)
        return TC_ACT_UNSPEC;
    s = streams.lookup(&key);
    if (!s || (!is_bare(s, p) && !is_old(s, p)) || is_live(skb, p))
        return TC_ACT_UNSPEC;
    now = bpf_ktime_get_ns();
    s->heard = now;
    if (is_bare(s, p))
        return s->settled ? TC_ACT_SHOT : TC_ACT_UNSPEC;
    if (!s->window)
        return TC_ACT_UNSPEC;
    if (now - s->answered < ANSWER_GAP)
        return TC_ACT_SHOT;
    s->answered = now;
    __sync_fetch_and_add(&count->answered, 1);
    return turn_around(skb, p, s);
}

/*
 * For a hold that has a responder: give it a SYN of the kubelet's. Its listener has addresses that no packet can be sent to
 * (redirector/answering.py) and a port of its own; the connection has the ones that were asked for. 0 when there is no
 * listener: then it is a SYN like any other.
 */
static __always_inline int assign(struct __sk_buff *skb, u32 id, struct packet *p, struct call *call)
{
    struct hold *hold = holds.lookup(&id);
    struct bpf_sock_tuple tuple = {};
    struct bpf_sock *sk;
    int failed;
    u32 size;

    if (!hold || !hold->responder || !(hold->mode & MODE_SCOPE) || hold->mode & MODE_DRAIN)
        return 0;
    if (hold->slot != skb->tc_classid)
        return 0;
    size = tuple_of(p, &tuple);
    if (p->v6) {
        __builtin_memset(tuple.ipv6.daddr, 0, 16);
        tuple.ipv6.daddr[0] = bpf_htonl(0x01000000); /* 100::1 */
        tuple.ipv6.daddr[3] = bpf_htonl(1);
        tuple.ipv6.dport = bpf_htons(hold->responder);
    } else {
        tuple.ipv4.daddr = bpf_htonl(0xc0000008); /* 192.0.0.8 */
        tuple.ipv4.dport = bpf_htons(hold->responder);
    }
    sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
    if (!sk)
        return 0;
    failed = sk->state != BPF_TCP_LISTEN || bpf_sk_assign(skb, sk, 0);
    bpf_sk_release(sk);
    if (failed)
        return 0;
    call->hold = id;
    return 1;
}

/* Whether somebody listens where a SYN goes; no socket of its own connection is looked at, since nobody has port 0. */
static __always_inline int is_listened_for(struct __sk_buff *skb, struct packet *p)
{
    struct bpf_sock_tuple tuple = {};
    u32 size = tuple_of(p, &tuple);
    struct bpf_sock *sk;

    if (p->v6)
        tuple.ipv6.sport = 0;
    else
        tuple.ipv4.sport = 0;
    sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
    if (sk)
        bpf_sk_release(sk);
    return !!sk;
}

/*
 * Whether a segment for a held port is the responder's: of a connection that it was given, or a SYN that it is given
 * now. One that was sent again has a socket by then, which is the kernel's business.
 *
 * So is one in TIME_WAIT, left by a connection that the application has closed first, but only if nobody listens any
 * more: then it is answered with an ACK, the kubelet resets what it does not know, and its SYN comes again at once. An
 * application that listens still, about to be killed, would be given the connection: the SYN is held like anybody's.
 */
static __always_inline int answering(struct __sk_buff *skb, u32 slot, struct packet *p, struct call *call)
{
    struct port_key port = {.slot = slot, .port = p->dport, .proto = p->proto};
    struct bpf_sock *sk;
    int state;
    u32 *id;

    if (!call)
        return 0;
    if (!is_syn(p))
        return call->hold;
    sk = tcp_socket(skb, p);
    if (sk) {
        state = sk->state;
        bpf_sk_release(sk);
        if (state == BPF_TCP_TIME_WAIT)
            return !is_listened_for(skb, p);
        if (state != BPF_TCP_LISTEN)
            return 1;
    }
    call->hold = 0;
    id = ports.lookup(&port);
    return id && *id && assign(skb, *id, p, call);
}

/* What the kernel would answer with a reset or "port unreachable". */
static __always_inline int is_refused(struct __sk_buff *skb, struct packet *p)
{
    struct bpf_sock *sk;
    int listens;

    if (p->kind == LATER)
        return 0;
    if (p->proto == IPPROTO_UDP)
        return !has_udp_socket(skb, p);
    sk = tcp_socket(skb, p);
    if (!sk)
        return 1;
    listens = sk->state == BPF_TCP_LISTEN;
    bpf_sk_release(sk);
    return listens && !is_syn(p);
}

static __always_inline int ingress(struct __sk_buff *skb, int lo)
{
    u32 slot = skb->tc_classid, mark = skb->mark, id;
    struct packet p = {};
    struct counts *count;
    struct call *call = NULL;
    struct pod *pod;
    int verdict;

    if (mark == MARK_CRIU)
        return TC_ACT_UNSPEC;
    if (!parse(skb, &p))
        goto pass;
    pod = pods.lookup(&slot);
    if (!lo && (is_syn(&p) || has_payload(&p) || (pod && pod->holds)))
        call = call_in(pod, &p);
    if ((mark & MARK_MASK) != MARK_REPLAY) {
        if (pod && pod->holds && !answering(skb, slot, &p, call)) {
            id = holder(skb, slot, pod, &p);
            verdict = id ? answer(skb, slot, id, &p) : TC_ACT_UNSPEC;
            if (id && verdict == TC_ACT_UNSPEC)
                verdict = divert(skb, id);
            if (verdict != TC_ACT_UNSPEC)
                return verdict;
        }
        if (pod && pod->quarantine && pod->quarantine > bpf_ktime_get_ns() && is_refused(skb, &p))
            return TC_ACT_SHOT;
    }
    note_in(skb, slot, pod, &p, call);
    if (lo)
        note_out(skb, slot, pod, &p);
pass:
    if ((mark & MARK_MASK) == MARK_REPLAY) {
        id = mark & 0xffff;
        skb->mark = 0;
        count = counts.lookup(&id);
        if (count)
            __sync_fetch_and_add(&count->replayed, 1);
    }
    return TC_ACT_UNSPEC;
}

int eth_in(struct __sk_buff *skb)
{
    return ingress(skb, 0);
}

int lo_in(struct __sk_buff *skb)
{
    return ingress(skb, 1);
}

int eth_out(struct __sk_buff *skb)
{
    u32 slot = skb->tc_classid;
    struct packet p = {};

    if (parse(skb, &p))
        note_out(skb, slot, pods.lookup(&slot), &p);
    return TC_ACT_UNSPEC;
}

int tap_out(struct __sk_buff *skb)
{
    return skb->mark == (MARK_HELD | skb->tc_classid) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

int tap_in(struct __sk_buff *skb)
{
    u32 id = skb->tc_classid, slot, target = 0;
    struct hold *hold = holds.lookup(&id);
    struct pod *pod;
    u8 mac[6];
    int i;

    if (!hold || bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
        return TC_ACT_SHOT;
    slot = hold->slot;
    pod = pods.lookup(&slot);
    if (!pod)
        return TC_ACT_SHOT;
    if (!(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5])) {
        target = 1; /* lo: LOOPBACK_IFINDEX */
    } else {
        target = pod->ifaces[0].ifindex; /* also for multicast */
#pragma unroll
        for (i = 1; i < MAX_IFACES; i++)
            if (pod->ifaces[i].ifindex && !__builtin_memcmp(pod->ifaces[i].mac, mac, 6))
                target = pod->ifaces[i].ifindex;
    }
    skb->mark = MARK_REPLAY | id;
    return bpf_redirect(target, BPF_F_INGRESS);
}

int kubelet_calls(struct bpf_sock_ops *ops)
{
    struct call_key key = {};
    struct call fresh = {}, *found;

    if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
        if (!call_key_of(ops, &key))
            return 1;
        calls.update(&key, &fresh);
        bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
    } else if (ops->op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == BPF_TCP_CLOSE) {
        if (!call_key_of(ops, &key))
            return 1;
        found = calls.lookup(&key);
        if (found)
            found->closed = 1;
    }
    return 1;
}
