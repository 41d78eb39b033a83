/*
 * The answer to a segment on a kept connection that an awake kernel would only acknowledge: a keepalive, in
 * both styles (seq = rcv_nxt - 1, without or with one byte received long ago), or a copy of what was
 * acknowledged already. RFC 9293 3.10.7.4: "If an incoming segment is not acceptable, an acknowledgment
 * should be sent in reply"; nothing in it is news to the application.
 *
 * The frame itself is turned around: every field is written anew, from the connection's state in the image.
 *
 * Not answered, because the application would have to do something about it: whatever brings a byte or a
 * FIN it has not got, and any segment while its window is closed. A peer that probes a closed window has data
 * that we have no room for, and on Linux such a probe looks like a keepalive (tcp_xmit_probe_skb).
 */
#define MAX_OPTIONS 10
#define ANSWER_GAP 100000000ull /* ns; two sides that both answer must not keep each other busy */
#define TTL 64

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_TIMESTAMP 8

struct segment {
    __be16 source;
    __be16 dest;
    __be32 seq;
    __be32 ack;
    u8 offset;
    u8 flags;
    __be16 window;
    u16 check;
    __be16 urgent;
    u8 nop[2];
    u8 kind;
    u8 length;
    __be32 tsval;
    __be32 tsecr;
};

#define BARE 20 /* of struct segment, without timestamps */

static __always_inline u16 fold(u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* Tell whether a segment says no more than that its sender lives: the answer to a keepalive of ours. */
static __always_inline int is_bare(struct stream *s, struct packet *p)
{
    return (p->flags & (FLAG_SYN | FLAG_RST | FLAG_FIN | FLAG_ACK)) == FLAG_ACK && !p->payload && p->seq == s->rcv_nxt;
}

/* Tell whether every byte of a segment was acknowledged already. */
static __always_inline int is_old(struct stream *s, struct packet *p)
{
    u32 end = p->seq + p->payload + !!(p->flags & FLAG_FIN);

    if ((p->flags & (FLAG_SYN | FLAG_RST | FLAG_ACK)) != FLAG_ACK)
        return 0;
    return (s32)(p->seq - s->rcv_nxt) < 0 && (s32)(end - s->rcv_nxt) <= 0;
}

/* The peer's clock, to be sent back to it; 0 if the segment does not say. */
static __always_inline __be32 timestamp_of(struct __sk_buff *skb, struct packet *p)
{
    u32 at = p->transport + BARE, end;
    u8 option[2], offset;
    __be32 value = 0;
    int i;

    if (bpf_skb_load_bytes(skb, p->transport + 12, &offset, 1))
        return 0;
    end = p->transport + (offset >> 4) * 4;
    for (i = 0; i < MAX_OPTIONS; i++) {
        if (at + 10 > end || bpf_skb_load_bytes(skb, at, option, 2) || option[0] == OPTION_END)
            return 0;
        if (option[0] == OPTION_TIMESTAMP) {
            bpf_skb_load_bytes(skb, at + 2, &value, 4);
            return value;
        }
        if (option[0] != OPTION_NOP && option[1] < 2)
            return 0;
        at += option[0] == OPTION_NOP ? 1 : option[1];
    }
    return 0;
}

/*
 * Tell whether the kernel fills in the checksum later, as it does for what comes from this very machine: its
 * helper leaves the field alone then. Nothing has changed afterwards.
 */
static __always_inline int is_partial(struct __sk_buff *skb, u32 at)
{
    u16 before = 0, after = 0;

    bpf_skb_load_bytes(skb, at, &before, 2);
    bpf_l4_csum_replace(skb, at, 0, 1, 2);
    bpf_skb_load_bytes(skb, at, &after, 2);
    bpf_l4_csum_replace(skb, at, 1, 0, 2);
    return before == after;
}

static __always_inline int turn_mac(struct __sk_buff *skb)
{
    u8 mac[12], turned[12];

    if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
        return -1;
    __builtin_memcpy(turned, mac + 6, 6);
    __builtin_memcpy(turned + 6, mac, 6);
    return bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0);
}

static __always_inline int turn_v4(struct __sk_buff *skb, u32 length)
{
    struct iphdr ip;
    __be32 source;

    if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
        return -1;
    source = ip.saddr;
    ip.saddr = ip.daddr;
    ip.daddr = source;
    ip.tos &= ~3; /* ECN is for data */
    ip.tot_len = bpf_htons(sizeof(ip) + length);
    ip.id = 0;
    ip.frag_off = bpf_htons(0x4000); /* do not fragment */
    ip.ttl = TTL;
    ip.check = 0;
    ip.check = ~fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
    return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline int turn_v6(struct __sk_buff *skb, u32 length, struct packet *p)
{
    struct ipv6hdr ip;

    if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
        return -1;
    __builtin_memcpy(&ip.saddr, p->target, 16);
    __builtin_memcpy(&ip.daddr, p->source, 16);
    ip.flow_lbl[0] &= ~0x30; /* ECN is for data */
    ip.payload_len = bpf_htons(length);
    ip.hop_limit = TTL;
    return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline int turn_tcp(struct __sk_buff *skb, struct packet *p, struct stream *s, u32 length, int partial)
{
    __be32 rest[2] = {bpf_htonl(length), bpf_htonl(IPPROTO_TCP)};
    u32 window = s->window >> (s->shift & 15);
    struct segment tcp = {};
    u64 sum;

    tcp.source = bpf_htons(p->dport);
    tcp.dest = bpf_htons(p->sport);
    tcp.seq = bpf_htonl(s->snd_nxt);
    tcp.ack = bpf_htonl(s->rcv_nxt);
    tcp.offset = length << 2;
    tcp.flags = FLAG_ACK;
    tcp.window = bpf_htons(window < 0xffff ? window : 0xffff);
    if (s->timestamps) {
        tcp.nop[0] = tcp.nop[1] = OPTION_NOP;
        tcp.kind = OPTION_TIMESTAMP;
        tcp.length = 10;
        tcp.tsval = bpf_htonl(s->tsval);
        tcp.tsecr = timestamp_of(skb, p);
    }
    /* The pseudo header: that of a mapped IPv4 address adds 0xffff, which is nothing to this sum. */
    sum = bpf_csum_diff(0, 0, (__be32 *)p->source, 32, 0);
    sum = bpf_csum_diff(0, 0, rest, sizeof(rest), sum);
    if (partial)
        tcp.check = fold(sum);
    else
        tcp.check = ~fold(bpf_csum_diff(0, 0, (__be32 *)&tcp, sizeof(tcp), sum));
    if (bpf_skb_change_tail(skb, p->transport + length, 0))
        return -1;
    if (s->timestamps)
        return bpf_skb_store_bytes(skb, p->transport, &tcp, sizeof(tcp), BPF_F_RECOMPUTE_CSUM);
    return bpf_skb_store_bytes(skb, p->transport, &tcp, BARE, BPF_F_RECOMPUTE_CSUM);
}

/* Make an answer of the frame and send it back; TC_ACT_UNSPEC when it is not for us to answer. */
static __always_inline int turn_around(struct __sk_buff *skb, struct packet *p, struct stream *s)
{
    u32 length = s->timestamps ? sizeof(struct segment) : BARE;
    u32 bare = ETH_HLEN + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
    int failed;

    if (p->transport != bare) /* with IP options or extension headers */
        return TC_ACT_UNSPEC;
    failed = turn_tcp(skb, p, s, length, is_partial(skb, p->transport + 16));
    failed = failed || (p->v6 ? turn_v6(skb, length, p) : turn_v4(skb, length));
    if (failed || turn_mac(skb))
        return TC_ACT_SHOT;
    skb->mark = 0;
    return bpf_redirect(skb->ifindex, 0);
}
