from fit6 import *
H=[]
for s in D:
    rows=s["rows"]
    for i,b in enumerate(rows):
        if b["kind"]!="rest": continue
        a=rows[i-1]; fa,fb=a["pois"]/a["n"],b["pois"]/b["n"]
        if a["cp"]<.5*max(5,min(a["n"],b["n"])) or max(fa,fb)<.6 or abs(fa-fb)<.4: continue
        t=1 if fa>fb else -1
        def ent(r):
            p=r["taken"][r["oth"]].astype(float); p=p/max(p.sum(),1e-9); p=p[p>0]; return float(-(p*np.log(p)).sum())
        H.append((s["name"],t,a["agree"]-b["agree"],a["expl"]-b["expl"],ent(a)-ent(b),a["leave_m"]-a["leave_t"],a["E"]-b["E"],a["n"]/a["size"],ent(a),ent(b)))
print(len(H))
def bonus(x,lo,hi,c): # toward smaller
    s=min(x,1-x); v=c*np.clip((hi-s)/(hi-lo),0,1); return v if x<.5 else -v
V={"now":lambda h:2.5*h[2]-h[3]+(np.sign(.5-h[7])*.5 if min(h[7],1-h[7])<=.4 else 0),
"lin":lambda h:2.5*h[2]-h[3]+bonus(h[7],.3,.45,.5),
"lin+ent":lambda h:2.5*h[2]-h[3]+bonus(h[7],.3,.45,.5)+.25*h[4],
"lin+leave":lambda h:2.5*h[2]-h[3]+bonus(h[7],.3,.45,.5)+.5*h[5],
"lin+ent+leave":lambda h:2.5*h[2]-h[3]+bonus(h[7],.3,.45,.5)+.25*h[4]+.5*h[5],
"lin+ent+leave2":lambda h:2.5*h[2]-h[3]+bonus(h[7],.3,.45,.5)+.25*h[4]+1*h[5],
"3agree lin":lambda h:3.5*h[2]-h[3]+bonus(h[7],.3,.45,.5),
}
for n,v in V.items():
    m=np.array([v(h)*h[1] for h in H]); o=np.argsort(m)
    print(n,"wrong",(m<0).sum(),"smallest",[(H[i][0][:30]+H[i][0][-4:],round(m[i],2)) for i in o[:6]])
